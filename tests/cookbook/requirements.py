"""What tinker-cookbook needs, but for tml-renderers: not every package index has it, and only Inkling models use it."""

from importlib.metadata import requires

for requirement in requires("tinker-cookbook") or ():
    if "extra ==" not in requirement and not requirement.startswith("tml-renderers"):
        print(requirement)
print("sympy", "pylatexenc", "math-verify", sep="\n")
