"Decoupled against coupled under conditions: right recipes, paired differences, and nothing measured twice."
import numpy as np, pytest
from omnipersona.basics import OmniError
from omnipersona.concept.learn import Recipe
import omnipersona.bench.conditions_bench as B

def test_a_condition_changes_what_it_says_and_nothing_else():
    assert B.condition('16 + 16 tokens') == Recipe() and B.condition('4 + 4 tokens', 'coupled', 7) == Recipe(steps=7, routing='coupled', n_und=4, n_gen=4)
    with pytest.raises(OmniError, match="'none': no condition; one of 16"): B.condition('none')

def rows(cs, d): return {f'{k}, {r}': dict(scores={s: .2 + .1*cs + (d[k] if r == 'decoupled' else 0) for s in B.SHOWN}) for k in d for r in B.ROUTINGS}

def test_differences_are_taken_in_pairs():
    r = B.conditions_report([rows(0, {'x': .1, 'y': -.1}), rows(3, {'x': .3, 'y': -.1})])
    assert list(r) == ['x', 'y'] and r['x']['fact QA']['difference'] == pytest.approx(.2) and r['y']['fact QA']['difference'] == pytest.approx(-.1) and r['x']['fact QA']['n'] == 2
    text = B.conditions_text(r); assert '+0.200' in text and '-0.100' in text and 'n = 2' in text
    f = B.conditions_figure(r); assert [a.get_title() for a in f.axes] == list(B.SHOWN)
    means = f.axes[0].lines[0].get_ydata(); assert np.allclose(means, [.2+.15+.2, .2+.15-.1])
    with pytest.raises(OmniError, match='no character and seed'): B.conditions_report([])

def test_what_is_measured_stays(tmp_path, monkeypatch):
    asked = []
    def scored(cs, seed, lesson, steps, n, file):
        asked.append((cs, *lesson.rsplit(', ', 1)))
        B.keep_row(file, dict(character=cs, seed=seed, lesson=lesson, **B._about(B.load_backbone('tiny'), steps, n), scores={s: .5 for s in B.SHOWN}))
    monkeypatch.setattr(B, 'condition_scored', scored)
    B.main(tmp_path/'c.json', n_characters=1, steps=2, conditions=('2 + 2 tokens',), jobs=1); assert len(asked) == 2
    B.main(tmp_path/'c.json', n_characters=1, steps=2, conditions=('2 + 2 tokens', '4 + 4 tokens'), jobs=1); assert [a[1] for a in asked[2:]] == ['4 + 4 tokens']*2
    B.main(tmp_path/'c.json', n_characters=1, steps=3, conditions=('2 + 2 tokens',), jobs=1); assert len(asked) == 6            # other steps are another measurement
