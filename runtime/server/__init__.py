"""The inference server: Open Inference Protocol v2 over HTTP, in front of one device.

`store` keeps artifacts on disk, `admission` decides which may run, `host` owns the device and the
loaded models, `work` the queue before it, `app` the HTTP side, `command` the process. Only `app`,
`routes` and `command` import the web stack (tornado).
"""
