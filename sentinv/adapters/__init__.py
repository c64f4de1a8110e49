"""LoRA: small changes of a model that belong to a learned word, put on for a while and taken off again.

`lora` is the record and its file, `layouts` what other programs call its tensors, `names` what they call the UNet's modules,
`fitting` finds its layers in a model, `install` puts it on. May import `concepts` and the rooms below it.
"""

MAX_RANK = 1024
"""The largest rank of a layer; of what is larger, somebody wants memory and not a picture."""
