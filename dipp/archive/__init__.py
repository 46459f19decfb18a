"""The command `dipp archive`: a chain over thousands of files, here or on a cluster.

`keys`, `patterns`, `records`, `plan`, `dispatch`, `tables` and `page` decide and are pure; `places`
and `s3` are where files come from and go to, `runner` is the process that works, `local` and
`cluster` are the engines that feed runners.
"""
