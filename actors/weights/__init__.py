"""Weight transfer from the policy ranks to the vLLM engines.

`records` defines the format of a bucket, `engine_group` calls several engines under one deadline, `host`, `ipc` and
`collective` are the transports (trainer and engine side), `vllm_side` is the class that vLLM loads. `sender` is the
trainer side, which drives an update.
"""
