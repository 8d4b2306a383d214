"""Weights on their way from the policy ranks to the vLLM engines: what both ends of every transport share.

`records` is a bucket on the wire, `fleet` calls many engines under one deadline, `host`, `ipc` and `collective` are the
transports with both of their halves, `vllm_side` is the engine class that vLLM loads. The trainer's end, which drives
an update, is `actors.weights.sender`.
"""
