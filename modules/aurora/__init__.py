"""Detection of aurora on the night side of Mars in swaths of EMM/EMUS, as a chain of modules.

The files named `emus_disc` and `aurora_*` are pipeline modules; the others are what they share,
importable as `modules.aurora.NAME`. Brightness is in Rayleigh, angles in degrees, lengths in km.
Nothing here imports more than numpy, OpenCV and the module interface.
"""
