"""A language model server small enough for a laptop, and real enough to be tuned.

It speaks the OpenAI API, computes a transformer in NumPy, and batches continuously. The weights
are random, so what it says means nothing; but how long it takes depends on how it is configured
for the same reasons as with a large model on a GPU. Nothing in it sleeps to look slow.

A request passes through the modules in this order: ``wire`` reads HTTP, ``api`` makes a sequence
of tokens out of the request with the ``tokenizer``, ``engine`` decides what is computed when, and
``model`` computes it.
"""
