"""A page in the browser to try the library on: `flashdiffusion app`. Gradio is loaded by `page` and `serving` alone."""
