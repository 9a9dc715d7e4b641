"""A host that grows: sites, seeds, blueprints and their kernels, gradient isolation, blending, and `health` measurements (torch).

Knows nothing of the log, the policy or the training loop: `Host` takes commands between steps and returns values.
It never changes the host's own path while a seed is isolated.
"""
