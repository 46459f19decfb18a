"""Image pipeline daemon: takes batches of images from a queue, runs module chains, stores results.

`message`, `batch`, `metadata` and `config` are the formats; `runner`, `sandbox` and `supervisor`
execute modules in processes of their own; `node` composes the daemon from those plus the stores
(`journal`, `ring`, `quarantine`) and the services on the bus. Module authors import only `sdk`.
"""
