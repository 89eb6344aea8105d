"""The loops that connect model, schedule and transport."""
