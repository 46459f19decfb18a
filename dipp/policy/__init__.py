"""What becomes of failures: fallbacks, rollback of uploads, replay, thumbnails of lost images.

`fallback`, `trials` are pure; `guard`, `rollback`, `replay` and `raw` carry them out in the node;
`settings` holds their parameters, `shell` the operator's commands.
"""
