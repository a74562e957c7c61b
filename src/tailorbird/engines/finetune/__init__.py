"""Fine-tuning, the same for every framework: settings, plan, schedules, views, checkpoints, loop."""
