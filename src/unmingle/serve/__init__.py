"""``unmingle serve``: a page for people with a recording, and the JSON API behind it.

The server (Starlette) takes uploads, keeps a queue and sends bytes; it never imports PyTorch. Models run in
processes of their own (:mod:`unmingle.serve.worker`), one per job or live stream, that can be killed.
"""
