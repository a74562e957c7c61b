"""Engines: deep-learning frameworks that supply backbones and fine-tune them.

`protocol` states what an engine must provide, `registry` lists the engines; `finetune/` holds what
is the same for all of them: stages, schedules, views, checkpoints and the loop. Each engine has its
own folder, the only place that imports its framework.
"""
