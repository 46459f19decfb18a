# The demo's flight plan: the timed capture of the paper's Listing 1, repeated CAPTURES times, of
# which the last AURORAS are observations of Mars for the second pipeline.
# Constants live in registers, because operands are parameters; waits for another node copy its
# state here and look again at the next GNSS second.
#
# Nodes: M7 4, radio 10, A53 161, DIPP 162, camera 163. Slots 40 to 49.
# p_uint32[0] start     [1] time of first capture   [2] next look   [3] pause between looks
# p_uint32[4] images in the ring of DIPP            [5] images the radio has copied
# p_uint8[0] zero       [1] one   [2] state of the pipeline         [3] captures left
# p_uint8[4] of these, of Mars

node 4
list download

proc new
proc set p_uint32[0] $(START)
proc set p_uint32[3] $(PAUSE)
proc set p_uint8[0] 0
proc set p_uint8[1] 1
proc set p_uint8[3] $(CAPTURES)
proc set p_uint8[4] $(AURORAS)
proc block gnss_unix >= p_uint32[0]
proc set wake_a53 1
proc block a53_status == p_uint8[1]
proc unop gnss_unix idt p_uint32[1]
proc call 41
proc push 40

# One capture, processed as soon as its batch is there (3 = wait for one batch).
proc new
proc ifelse p_uint8[3] <= p_uint8[4]
proc call 49
proc call 48
proc push 41

proc new
proc set capture_image 1 163
proc set pipeline_run 3 162
proc call 42
proc push 48

# The two swaths of an observation of Mars are one batch, for pipeline 2.
proc new
proc set capture_param CAMERA_TYPE=EMUS;NUM_IMAGES=2;PIPELINE_ID=2; 163
proc set pipeline_run 3 162
proc call 42
proc push 49

proc new
proc unop pipeline_run idt p_uint8[2] 162
proc ifelse p_uint8[2] == p_uint8[0]
proc call 44
proc call 43
proc push 42

proc new
proc binop gnss_unix + p_uint32[3] p_uint32[2]
proc block gnss_unix >= p_uint32[2]
proc call 42
proc push 43

proc new
proc unop p_uint8[3] -- p_uint8[3]
proc ifelse p_uint8[3] == p_uint8[0]
proc call 45
proc call 41
proc push 44

# The radio must have every image before the A53 may sleep: its node serves the downlink.
proc new
proc unop ring_count idt p_uint32[4] 162
proc unop mirror_copied idt p_uint32[5] 10
proc ifelse p_uint32[5] >= p_uint32[4]
proc call 47
proc call 46
proc push 45

proc new
proc binop gnss_unix + p_uint32[3] p_uint32[2]
proc block gnss_unix >= p_uint32[2]
proc call 45
proc push 46

proc new
proc set suspend_a53 1 161
proc push 47

proc run 40
