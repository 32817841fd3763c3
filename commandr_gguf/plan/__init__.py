"""What a model needs, what the machine has, and how the one goes into the other.

- shapes, hollow: models that are not there, as files of which nothing but the header takes room.
- needs: bytes of weights, KV cache and compute buffers, measured on the real graph.
- host: memory that this process can still get.
- places, placement: devices, present or described, and which layers go where.
- fitting: what to change when something does not fit.
- speed: what devices read and compute in a second.
"""
