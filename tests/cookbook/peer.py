"""Runs in the cookbook's environment: download a checkpoint, merge it into the model, and let the server score tokens.

Arguments: the checkpoint, the sampler's checkpoint, the model, token ids with commas. Prints logprobs as JSON.
"""

import json
import sys

import tinker
from tinker_cookbook import weights

state, sampler, model, ids = sys.argv[1:]
adapter = weights.download(tinker_path=state, output_dir="adapter")
weights.build_hf_model(base_model=model, adapter_path=adapter, output_path="merged", dtype="float32")
with tinker.ServiceClient() as service:
    client = service.create_sampling_client(model_path=sampler)
    scores = client.compute_logprobs(tinker.ModelInput.from_ints([int(i) for i in ids.split(",")])).result()
print(json.dumps(scores))
