"""Engines: deep-learning frameworks that bring backbones and fine-tune them. The rest of tailorbird needs none of them.

`network` says what fine-tuning asks of a framework; the plan of stages, the schedules, the views, the checkpoints and the loop
stand beside it, once for all frameworks. Each framework has a folder of its own, and only there is it imported.
"""
