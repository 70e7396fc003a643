"""What a checkpoint file says: bytes in, facts out.

Nothing here knows a path, a clock or a log, imports torch, or runs anything a file asks for. The modules, from the
bottom: ``facts`` (the records), ``unpickle`` (pickle to inert objects), ``values`` (single numbers out of tensor data),
``tensors`` (inert objects to tensor facts), ``plain`` (inert objects to what a person would write), ``modules`` (models
saved whole), ``checkpoint`` (what the keys of a checkpoint mean), a module for each format (``torch_zip``,
``torch_legacy``, ``safetensors``, ``sharded``), ``container`` (which format it is; ``read_facts``), ``plain_yaml``, and
the process that all of it runs in: ``worker`` (inside) and ``reader`` (outside).
"""
