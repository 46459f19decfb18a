# Listing 1 of the paper with its symbols resolved. As printed it cannot complete on flight code
# (literals as operands, see dish.md 12); it is here for its bytes.
proc new
proc set p_uint32[0] 1744407764 4
proc block gnss_time >= p_uint32[0] 4
proc set wake_a53 1 4
proc block a53_status == 1 4
proc unop gnss_time idt p_uint32[1] 4
proc set capture_image 1 163
proc set pipeline_run 1 162
proc block pipeline_run == 0 162
proc set suspend_a53 1 161
proc push 42 4
