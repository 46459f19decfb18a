"""The CSH-like shell: an operator's commands over CSP, interactive or from a file.

`line` splits what was typed, `command` declares commands as data and parses their words, `session`
holds what a shell knows (network, default node, parameter lists) and runs lines, `builtin_*` are
the commands, `app` is the prompt. Other packages add commands through the entry point group
`csp.shell`; so `csp` itself knows nothing of procedures or images.
"""
