"Where the cases of the faults of ../shared/faults are collected: one `FaultCases` for each file of them."

from .corpus import Case


class FaultCases(dict):
    "{number of a fault: cases}."

    def case(self, fault, name, run, expect="accepted", words=()):
        "One more case of a fault."
        self.setdefault(fault, []).append(Case("faults", f"{fault:02} {name}", run, expect, words))

    def borrowed(self, fault, cases, *beginnings):
        "Cases of an area that show a fault, too."
        found = [c for c in cases if c.name.startswith(beginnings)]
        assert found, beginnings
        for c in found:
            self.case(fault, c.name, c.run, c.expect, c.words)
