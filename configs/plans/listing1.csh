# The timed capture of the paper's Listing 1, in a form that a flown DISH can execute: operands are
# parameters, never literals, so the constants are set into registers first, and the wait for DIPP
# copies its state here, because a constant to compare with would have to live on DIPP's own node.
#
# Nodes: M7 4, A53 161, DIPP 162, camera 163. Slots 42 (start) to 45.
# p_uint32[0] start time   p_uint32[1] time of capture   p_uint32[2] next look   p_uint32[3] period
# p_uint8[0] zero          p_uint8[1] one                p_uint8[2] state of the pipeline

node 4
proc new
proc set p_uint32[0] 1744407764
proc set p_uint32[3] 1
proc set p_uint8[0] 0
proc set p_uint8[1] 1
proc block gnss_unix >= p_uint32[0]
proc set wake_a53 1
proc block a53_status == p_uint8[1]
proc unop gnss_unix idt p_uint32[1]
proc set capture_image 1 163
proc set pipeline_run 3 162
proc call 43
proc push 42

# Look once per second until the pipeline has stopped.
proc new
proc unop pipeline_run idt p_uint8[2] 162
proc ifelse p_uint8[2] == p_uint8[0]
proc call 45
proc call 44
proc push 43

proc new
proc binop gnss_unix + p_uint32[3] p_uint32[2]
proc block gnss_unix >= p_uint32[2]
proc call 43
proc push 44

proc new
proc set suspend_a53 1 161
proc push 45
