"""`inspect-ai` on samplers of ours (extra `inspect`)."""
