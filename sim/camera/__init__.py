"""The emulated camera: sensor model, view of the ground, capture string, camera node.

`capture` (request language and error codes), `sensor`, `exposure`, `view` and `frames` are pure;
`segments` holds the shared memory and the queue, `node` composes, `cli` starts it.
"""
