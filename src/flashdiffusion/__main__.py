"""`python -m flashdiffusion`, which `accelerate launch -m flashdiffusion` needs."""

from flashdiffusion.cli import main

main()
