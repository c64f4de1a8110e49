"""Everything that comes in from outside and goes out: whole files or none, locks, pictures, tensors.

Strangers' pictures and tensors are checked before they are believed; nothing is pickled, and every write of the product goes
through `atomic`. Pictures: `images`, `decoding`. Tensors: `tensors`, `unpickling`. This room imports no other.
"""
