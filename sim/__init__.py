"""The emulated spacecraft around the payload: orbit, power, GNSS, camera, radio, and the launcher.

Everything that stands in for hardware lives here and says so. `csp`, `dish` and `dipp` never
import it; only the `payload` command and tests do.
"""
