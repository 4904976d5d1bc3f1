"""``unmingle serve``: a web page for people with a recording, and the JSON API behind it.

The server (Starlette) receives uploads, keeps a queue and sends results. It never imports PyTorch. Models run in
worker processes (:mod:`unmingle.serve.worker`), one per job or live stream, that can be killed.
"""
