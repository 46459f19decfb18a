"""All 95 ids of the fault catalogue, by name. Pure.

Theory of operation: an id is injected by the rows of `dipp.hostile` with its number and by the
`FaultRow`s that `dipp.faults.rows` gathers, each of which carries its own oracle. The tests named
here go deeper into the same part; a checkout can run them too (`dipp faults --with-tests`). Their
names are `file::function` below `tests/`. Source: style-anchors.md Annex A.
"""

from __future__ import annotations

from dataclasses import dataclass

from dipp.hostile import FAULTS, Fault

LAST_ID = 95


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One id, and the tests of what it belongs to."""

    id: int
    name: str
    tests: tuple[str, ...] = ()

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The hostile modules of this id."""
        return tuple(fault for fault in FAULTS if fault.number == self.id)


def _entry(number: int, name: str, *tests: str) -> Entry:
    return Entry(id=number, name=name, tests=tests)


def _at(path: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{path}.py::test_{name}" for name in names)


_MODULE_FAULTS = (
    _entry(1, "null dereference"),
    _entry(2, "write to a protected page"),
    _entry(3, "jump to null"),
    _entry(4, "mapping truncated under its reader"),
    _entry(5, "integer division by zero"),
    _entry(6, "illegal instruction"),
    _entry(7, "abort, double free"),
    _entry(8, "stack overflow, recursion"),
    _entry(9, "uncaught exception of any kind"),
    _entry(10, "exit 1 without a word"),
    _entry(11, "exit 0 without a result"),
    _entry(12, "exit in a thread"),
    _entry(13, "killed from outside"),
    _entry(14, "out of memory"),
    _entry(15, "too much CPU time"),
    _entry(16, "too large a file"),
    _entry(17, "busy loop"),
    _entry(18, "blocks all signals and sleeps"),
    _entry(19, "stops itself"),
    _entry(20, "waits for ever in a lock"),
    _entry(21, "slow but in time"),
    _entry(22, "done exactly at the deadline"),
    _entry(23, "replaces SIGALRM"),
    _entry(24, "floods its output"),
    _entry(25, "closes all descriptors"),
    _entry(26, "leaves a daemon"),
    _entry(27, "fork bomb"),
    _entry(28, "kills its parent or everybody"),
    _entry(29, "traces its parent or writes its memory"),
    _entry(30, "opens the network"),
    _entry(31, "leaves its scratch directory"),
    _entry(32, "removes or reopens its segments"),
    _entry(33, "unlinks the queue"),
    _entry(34, "leaks segments"),
    _entry(35, "leaks descriptors",
           *_at("dipp/test_runner_ends", "descriptors_stay_constant_over_many_runs")),
    _entry(36, "changes directory, mask, environment, locale",
           *_at("dipp/test_runner", "one_module_cannot_disturb_the_next")),
    _entry(37, "prints control codes"),
    _entry(38, "result in another segment"),
    _entry(39, "size negative, zero or too large"),
    _entry(40, "image count mismatch"),
    _entry(41, "other pipeline id"),
    _entry(42, "metadata past its end"),
    _entry(43, "metadata damaged"),
    _entry(44, "NaN or huge dimensions"),
    _entry(45, "garbage, two results, wrong length"),
    _entry(46, "module file missing"),
    _entry(47, "no entry symbol"),
    _entry(48, "no module at all"),
    _entry(49, "crash while loading"),
    _entry(50, "other interface version"),
    _entry(51, "hash mismatch",
           *_at("dipp/test_runner", "file_is_loaded_from_what_was_hashed_and_kept_while_running")),
    _entry(52, "replaced while running",
           *_at("dipp/test_runner", "running_batch_ends_on_the_old_version")),
    _entry(53, "unreadable, directory, symbolic link",
           *_at("dipp/test_runner", "what_is_no_plain_file_is_501"),
           *_at("dipp/test_slots", "nothing_leads_out_of_the_directories")),
)  # fmt: skip

_NODE_FAULTS = (
    _entry(54, "configuration is no message",
           *_at("dipp/test_config_codec", "garbage_is_a_value_or_a_named_error"),
           *_at("dipp/test_slots", "a_bad_push_changes_nothing_but_the_status")),
    _entry(55, "compression damaged or a bomb",
           *_at("dipp/test_config_codec", "a_gigabyte_bomb_is_refused_at_once")),
    _entry(56, "unknown module, empty or too long pipeline",
           *_at("dipp/test_config_codec", "bad_definitions_are_refused_as_a_whole"),
           *_at("dipp/test_slots", "a_bad_module_leaves_the_pipeline_as_it_was")),
    _entry(57, "parameter of another type",
           *_at("dipp/test_runner", "parameter_of_the_wrong_type_is_504_with_the_module"),
           *_at("dipp/test_config_codec", "bad_parameters_are_refused_as_a_whole")),
    _entry(58, "update in mid-pipeline",
           *_at("dipp/test_node", "an_update_in_mid_pipeline_reaches_the_next_batch")),
    _entry(59, "power cut while a configuration is written",
           *_at("csp/test_vmem_file",
                "kill_then_restart_then_power_cut_at_any_call_leaves_old_or_new",
                "real_kill_at_a_call_leaves_old_or_new")),
    _entry(60, "bit flip in a stored configuration",
           *_at("csp/test_vmem_file", "every_flipped_bit_is_detected_and_the_previous_copy_used")),
    _entry(61, "queue full, absent, of another size, foreign messages, bursts",
           *_at("dipp/test_worker", "ten_thousand_messages_in_bursts", "no_queue_at_all",
                "bad_messages_are_counted_and_the_next_batch_passes"),
           *_at("dipp/test_intake", "an_unlinked_queue_is_read_empty_and_made_anew",
                "a_queue_with_small_messages_is_read_empty_and_made_anew")),
    _entry(62, "shared memory exhausted", *_at("dipp/test_shortage", "every_call_may_fail")),
    _entry(63, "disk full under log, ring, journal, quarantine",
           *_at("dipp/test_worker", "a_full_disk_under_the_ring_loses_nothing",
                "a_full_disk_under_the_journal_only_delays"),
           *_at("dipp/test_quarantine", "a_full_disk_evicts_then_gives_up_cleanly"),
           *_at("dipp/test_eventlog", "a_full_or_missing_disk_is_counted_only")),
    _entry(64, "the N-th system call fails",
           *_at("dipp/test_shortage", "every_call_may_fail"),
           *_at("csp/test_files_store", "a_kill_at_any_system_call_loses_nothing")),
    _entry(65, "fork fails",
           *_at("dipp/test_containment", "a_fork_that_fails_costs_a_batch_and_says_why")),
    _entry(66, "ring wraps while it is read",
           *_at("dipp/test_ring", "a_reader_notices_that_its_element_was_evicted")),
    _entry(67, "node killed at any state",
           *_at("dipp/test_fate", "a_batch_has_exactly_one_fate_whenever_the_node_is_killed",
                "a_second_kill_during_the_recovery_changes_nothing"),
           *_at("dipp/test_runner_ends", "nothing_survives_the_death_of_the_node")),
    _entry(68, "told to stop in the middle of a batch",
           *_at("dipp/test_serve",
                "sigterm_lets_the_current_batch_end_and_leaves_the_rest_queued")),
    _entry(69, "restart intensity reached",
           *_at("dipp/test_supervisor_table", "intensity_gives_up_and_is_rearmed")),
    _entry(70, "two supervisors",
           *_at("dipp/test_serve", "a_second_daemon_refuses_and_the_first_goes_on")),
    _entry(71, "clock jumps",
           *_at("dipp/test_clock_jumps", "deadlines_hold_while_the_wall_clock_jumps")),
    _entry(72, "process number used again",
           *_at("dipp/test_runner_wait", "only_own_children_are_signalled",
                "numbers_that_mean_many_are_never_signalled")),
)  # fmt: skip

_LINK_FAULTS = (
    _entry(73, "loss",
           *_at("csp/test_connection", "a_megabyte_survives_loss_both_ways"),
           *_at("csp/test_files_upload", "losses_cost_time_but_no_byte")),
    _entry(74, "duplicates",
           *_at("csp/test_stack", "duplicate_filter_remembers_sixteen_frames"),
           *_at("dipp/test_ring_services", "ring_download_through_loss_duplicates_and_reordering")),
    _entry(75, "reordering",
           *_at("csp/test_rdp", "reassembly_orders_any_permutation",
                "open_pair_moves_data_both_ways_over_a_shuffling_channel")),
    _entry(76, "delay",
           *_at("csp/test_connection", "throughput_survives_a_slow_link_with_a_big_window")),
    _entry(77, "corrupt bytes",
           *_at("csp/test_packet", "every_flipped_bit_behind_the_header_is_found")),
    _entry(78, "truncated frames, unknown ports, bad authentication",
           *_at("csp/test_packet", "truncated_frames_are_refused"),
           *_at("csp/test_stack", "unbound_ports_are_silent_and_counted"),
           *_at("csp/test_sfp_hmac", "hmac_finds_every_flipped_bit", "hmac_refuses_truncation"),
           *_at("csp/test_guard", "fault_78_a_recorded_packet_is_refused_however_late",
                "packets_without_authentication_are_refused_and_counted"),
           *_at("sim/test_link", "fault_78_a_recorded_command_is_not_obeyed_again")),
    _entry(79, "peer reboots during a connection",
           *_at("csp/test_connection", "server_reboot_is_noticed_at_the_next_packet",
                "client_reboot_with_the_same_port_gets_a_new_connection")),
    _entry(80, "flood of connection requests",
           *_at("csp/test_connection", "syn_flood_locks_nobody_out",
                "half_open_connections_are_bounded")),
    _entry(81, "window stall",
           *_at("csp/test_connection", "slow_reader_stops_the_sender_but_loses_nothing")),
    _entry(82, "pass ends in mid-upload",
           *_at("csp/test_files_upload", "an_upload_goes_on_over_the_gap_between_passes")),
    _entry(83, "pull of many parameters",
           *_at("csp/test_param_client", "list_download_over_a_lossy_link_is_complete"),
           *_at("csp/test_param_server",
                "pull_all_obeys_masks_hides_the_hidden_and_keeps_table_order")),
    _entry(84, "push of bad id, type, index, length",
           *_at("csp/test_param_server", "malformed_push_is_refused_as_a_whole",
                "every_bit_flip_of_a_push_is_survived"),
           *_at("csp/test_param_client", "unknown_and_refused_items_are_errors_not_hangs")),
    _entry(85, "two ground stations at once",
           *_at("csp/test_files_upload", "two_ground_stations_at_once_end_with_one_whole_file"),
           *_at("dipp/test_ring_services", "two_stations_download_at_once")),
)  # fmt: skip

_PLAN_FAULTS = (
    _entry(86, "division by zero, shifts, NaN",
           *_at("dish/test_values", "division_by_zero_is_a_fault", "shift_counts_beyond_63"),
           *_at("dish/test_machine", "modes_differ_in_shifts_and_nan")),
    _entry(87, "damaged procedures",
           *_at("dish/test_program", "every_truncation_and_every_bit_flip_is_contained")),
    _entry(88, "endless calls, a running procedure replaced",
           *_at("dish/test_machine", "depth_limit_is_1001_frames"),
           *_at("dish/test_node", "deleting_and_replacing_a_running_procedure_does_not_touch_it")),
    _entry(89, "remote node silent or wrong",
           *_at("dish/test_machine", "remote_faults"),
           *_at("dish/test_mirror", "a_silent_node_leaves_invalid_values_and_comes_back")),
    _entry(90, "infinite loop",
           *_at("dish/test_machine", "budget_ends_an_endless_loop"),
           *_at("dish/test_runs", "busy_loops_do_not_hold_up_others")),
    _entry(91, "block that is never true",
           *_at("dish/test_machine", "block_times_out_at_the_first_poll_after_the_limit")),
    _entry(92, "17th concurrent run",
           *_at("dish/test_node", "the_17th_run_is_refused_and_says_why")),
    _entry(93, "process of a procedure killed",
           *_at("dish/test_runs", "kill_at_any_instruction_leaves_everything_going"),
           *_at("dish/test_node", "kill_of_a_procedure_process_is_reported_and_harmless")),
    _entry(94, "running procedure deleted",
           *_at("dish/test_node", "deleting_and_replacing_a_running_procedure_does_not_touch_it")),
    _entry(95, "single bit flips",
           *_at("dipp/test_message", "every_bit_flip_is_caught"),
           *_at("dipp/test_metadata", "every_truncation_and_bit_flip_is_a_value_or_a_named_error"),
           *_at("dipp/test_config_codec", "every_bit_flip_is_a_value_or_a_named_error"),
           *_at("dipp/test_journal", "a_flipped_bit_in_the_middle_loses_one_record_only"),
           *_at("dish/test_program", "every_truncation_and_every_bit_flip_is_contained")),
)  # fmt: skip

# First id of each group, and what the group is about.
GROUPS: tuple[tuple[int, str], ...] = (
    (1, "A. A module dies"), (17, "B. A module does not die"),
    (26, "C. A module misbehaves towards others"), (38, "D. A module lies"), (46, "E. Loading"),
    (54, "F. Configuration"), (61, "G. Queues, memory, storage"), (67, "H. The node and restarts"),
    (73, "I. Link, parameters, uploads"), (86, "J. Flight plans"), (95, "K. Radiation-like"),
)  # fmt: skip

CATALOGUE: tuple[Entry, ...] = (*_MODULE_FAULTS, *_NODE_FAULTS, *_LINK_FAULTS, *_PLAN_FAULTS)
