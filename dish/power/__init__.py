"""Power-aware admission: predict what a plan does to the battery before it is started.

`figures` (the values a prediction needs, and the port `PowerModel`), `walk` (what a plan switches
on and when), `forecast` (the battery over the horizon), `admission` (the decision and its
parameters), `deferred` (plans that wait for more light), `plugin` (finds the model by name). All
pure. Off unless the parameter `power_reserve` is set.
"""
