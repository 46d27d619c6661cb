"""The machinery of many images at once: slots, memory, cores of a CPU, cost."""
