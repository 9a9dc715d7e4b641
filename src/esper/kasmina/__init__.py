"""A host that can grow: sites, seeds, blueprints and their kernels, gradient isolation, blending, health (torch).

Knows nothing of the log, the policy or the training loop: `Host` is told what to do, between steps, and answers with values.
"""
