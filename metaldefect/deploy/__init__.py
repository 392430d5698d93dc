"""The detector on the production line: ONNX and OpenVINO export, runtime, latency."""
