"""Writes tests/text/data/templates.json: snippets of chat templates and what jinja2 makes of them,
in the environment of the `transformers` package.  Usage: chat_templates.py OUT.json [CORPUS_DIR]
(with CORPUS_DIR also a file per snippet, as seeds for fuzzing)."""
import json
import os
import sys

from transformers.utils.chat_template_utils import _compile_jinja_template

VARIABLES = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "  He said \"hi\", it's\n\nnaïve 日本 😀 \t\u00a0"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "1", "type": "function", "function": {
                "name": "f", "arguments": {"x": 1.5, "b": True, "z": None, "l": [1, "a", {}]}}}]},
        {"role": "tool", "content": "{\"t\": 20}", "tool_call_id": "1"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "image"}]},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "description": "<b> & 'é'", "parameters": {
        "type": "object", "properties": {"x": {"type": "number"}, "A": {"type": ["string", "null"]}},
        "required": ["x"]}}}],
    "documents": None,
    "add_generation_prompt": True,
    "bos_token": "<s>",
    "s": "aXbXc  dé fÉ", "n": 7, "f": 2.5, "words": ["b", "A", "c", "a", "B"], "deep": {"b": 1, "A": [1, 2], "c": {"k": 2}},
}

SNIPPETS = r"""
{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m['content'] }}{% endfor %}
{% for m in messages %}{{ loop.index }}/{{ loop.length }} {{ loop.first }} {{ loop.last }} {{ loop.revindex0 }};{% endfor %}
a  {%- if true %}  b  {% endif -%}  c
a\n  {% if true %}\n  b\n  {% endif %}\n  c\n\n
a\n  {%+ if true %}\n  b{% endif +%}\n  c {# no #}\n d
  {# x #}\n  {{ n }}\n{{- n -}}\n  {{ n }}
{% raw %}{{ x }} {% if %}{% endraw %}\n{%- raw -%}  y {{ {%- endraw -%}  z
{{ 1 }} {{ 1.0 }} {{ 1e20 }} {{ 1.5e-7 }} {{ 100000000000000000.0 }} {{ 0.1 + 0.2 }} {{ 7 / 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 2 ** -1 }}
{{ true }} {{ none }} {{ [1, 'a', "it's", none, 1.5] }} {{ {'a': 1, 'b': [true]} }} {{ (1,) }} {{ (1, 2) }} {{ 'a\n\t"\\é\u00a0' ~ 1 }} {{ ['a\n\t"\\é\u00a0\x01'] }}
{{ messages[2].tool_calls[0].function.arguments | tojson }}
{{ tools | tojson(indent=2) }}{{ tools | tojson(separators=(',', ':')) }}{{ deep | tojson(sort_keys=true) }}{{ s | tojson(ensure_ascii=true) }}
{{ s[0] }} {{ s[-1] }} {{ s[1:4] }} {{ s[::-1] }} {{ s[-3:] }} {{ words[1:] }} {{ words[::-1] }} {{ words[:-2:2] }} {{ s[100] }} {{ words[9] }}.
{{ s.split('X') }} {{ s.split() }} {{ s.split('X', 1) }} {{ s.rsplit('X', 1) }} {{ s.upper() }} {{ s.title() }} {{ s.replace('X', '--') }} {{ s.find('b') }} {{ s.count('X') }}
{{ messages[1].content.strip() }}|{{ messages[1].content | trim }}|{{ 'xxaxx'.strip('x') }}|{{ 'abcab'.lstrip('ba') }}|{{ 'abc\n'.rstrip('\n') }}
{{ s.startswith('aX') }} {{ s.endswith(('q', 'É')) }} {{ 'X' in s }} {{ 'q' not in s }} {{ 'b' in deep }} {{ 3 in [1, 2, 3] }} {{ 'z' in nothing }}
{{ words | sort }} {{ words | sort(case_sensitive=true, reverse=true) }} {{ words | unique | list }} {{ words | join(', ') }} {{ words | first }} {{ words | last }} {{ words | reverse | list }} {{ [3, 1, 2] | min }} {{ [3, 1, 2] | max }} {{ [1, 2] | sum }}
{% for k, v in deep | dictsort %}{{ k }}={{ v }};{% endfor %}{% for k, v in deep.items() %}{{ k }}={{ v }};{% endfor %}{% for k in deep %}{{ k }}{% endfor %}{% for k, v in deep | items %}{{ loop.index0 }}{% endfor %}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('role', 'in', ['user', 'tool']) | map(attribute='role') | join('+') }} {{ messages | map(attribute='tool_call_id', default='-') | list }} {{ words | map('upper') | list }} {{ [0, 1, none, 2] | select | list }} {{ [1, 2, 3] | reject('odd') | list }}
{% set ns = namespace(a=1, b='x') %}{% for w in words %}{% set ns.a = ns.a + 1 %}{% set inner = w %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ inner is defined }}
{% macro greet(name, mark='!', n=2) %}{{ name }}{{ mark * n }}{% endmacro %}{{ greet('a') }} {{ greet('b', n=1) }} {{ greet('c', '?') }} {{ greet() }}
{% macro tree(v, depth=0) %}{% if v is mapping %}{% for k, x in v.items() %}\n{{ '  ' * depth }}{{ k }}:{{ tree(x, depth + 1) }}{% endfor %}{% else %} {{ v }}{% endif %}{% endmacro %}{{ tree(deep) }}
{% for w in words if w != 'c' %}{% if loop.index == 2 %}{% continue %}{% endif %}{% if w == 'B' %}{% break %}{% endif %}{{ w }}{{ loop.previtem }}{{ loop.nextitem }}{% else %}none{% endfor %}{% for x in [] %}{% else %}empty{% endfor %}
{% set block %}<{{ n }}>{% endset %}{{ block | upper }}{% set x | trim %}  y {% endset %}[{{ x }}]{% filter upper %}ab{% endfilter %}{% generation %}gen{% endgeneration %}{% with q = 1 %}{{ q }}{% endwith %}{{ q }}
{% set a, b = 1, 'two' %}{{ a }}{{ b }}{% for x, (y) in [(1, 2)] %}{{ x }}{{ y }}{% endfor %}
{{ n is defined }} {{ nope is defined }} {{ nope is undefined }} {{ none is none }} {{ s is string }} {{ deep is mapping }} {{ words is iterable }} {{ words is sequence }} {{ deep is sequence }} {{ n is number }} {{ f is integer }} {{ true is boolean }} {{ n is odd }} {{ n is divisibleby 7 }} {{ n is not even }} {{ n is eq 7 }} {{ n is gt(3) }} {{ true is true }} {{ 'a' is in 'abc' }} {{ 'abc' is lower }}
{{ nope }}{{ nope | default('d') }}{{ '' | default('e', true) }}{{ none | d('x') }}{{ deep.nope }}{{ deep['nope'] }}{{ 'a' if false }}{{ 'b' if n > 3 else 'c' }}{{ nope or 'or' }}{{ n and s }}{{ not n }}
{{ 1 < 2 < 3 }} {{ 1 < 2 > 5 }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ {'a': 1} == {'a': 1.0} }} {{ nope == nada }} {{ none == nope }}
{{ 'a' 'b' ~ 1 + 2 ~ none }} {{ -n | abs }} {{ (-n) | abs }} {{ 1 + 2 * 3 ** 2 }} {{ not n == 7 or s }} {{ 2.567 | round(2) }} {{ 7 | round }} {{ 2.5 | round }} {{ '12' | int }} {{ 'x' | int(-1) }} {{ '1.5' | float }} {{ 3.9 | int }}
{{ "a\nb\n\nc" | indent(2) }}|{{ "a\nb" | indent('> ', true) }}|{{ 'hello wORLD-foo' | title }} {{ 'hELLO' | capitalize }} {{ words | length }} {{ s | count }} {{ 5 | string + 'x' }} {{ 'aaa' | replace('a', 'b', 2) }} {{ 'abc' | list }} {{ '<&>' | safe }}
{{ range(3) | list }} {{ range(5, 1, -2) | list }} {{ dict(a=1, b=2) }} {{ 'abc'.join(['1', '2']) }} {{ '{1} {0} {x}'.format(1, 2, x=3) }}
{{ '{}-{}'.format('a', 2) }} {{ 'a\nb\r\nc'.splitlines() }} {{ deep.get('b') }} {{ deep.get('q', 'none') }} {{ deep.keys() | list }} {{ deep.values() | list }} {{ '12'.isdigit() }}
{% if tools is not none and tools | length > 0 %}T{% elif n %}N{% else %}E{% endif %}{%- for t in tools %}{{ '\n' + t.function.name ~ (t.function | tojson) }}{% endfor %}
{{ {'a': {'b': {}}} }}{{ {1: 2}[1] }}{{ [[1]][0][0] }}{{ words.0 }}{{ 'é😀x'[1] }}{{ 'é😀x' | length }}{{ 'é😀x'[::-1] }}
{{ raise_exception('stop: ' + s) }}
{{ {'b': {'d': 1, 'c': [2]}, 'a': none} | tojson(sort_keys=true, indent=1) }} {{ 'ABC' is upper }} {{ 'Abc' is upper }} {{ s is lower }} {{ 'x' ~ ('y' ~ ('z' ~ n) ~ f) }}
{{ words | map(foo='x') | list }}
{{ words | map('upper', foo='x') | list }}
{{ '{} {1}'.format(1, 2) }}
{{ '{0} {}'.format(1, 2) }}
{{ '<a>' + ('<b>' | safe) + "'&" }}{{ 25 | round(-1) }}{{ '<' ~ ('<' | safe) }}
{{ nope.x }}
{{ nope + 1 }}
{{ nope() }}
{{ 1 / 0 }}
{{ 'a' + 1 }}
{{ words | nofilter }}
{{ words.append('x') }}
{{ none | length }}
{{ nope | tojson }}
{% if true %}
{{ 1 + }}
{% for x in 3 %}{% endfor %}
{{ 'a' < 1 }}
{% set n.x = 1 %}
{% break %}
{{ "unclosed }}
""".strip("\n").split("\n")


def main():
    pairs = []
    for line in SNIPPETS:
        template = line.replace("\\n", "\n") if "'" not in line and '"' not in line else line
        try:
            text = _compile_jinja_template(template).render(**json.loads(json.dumps(VARIABLES)))
        except Exception:  # what jinja2 refuses must be refused
            text = None
        pairs.append({"template": template, "text": text})
        if len(sys.argv) > 2:
            with open(os.path.join(sys.argv[2], "snippet_%02d" % len(pairs)), "w") as f:
                f.write(template)
    with open(sys.argv[1], "w") as f:
        json.dump({"variables": VARIABLES, "pairs": pairs}, f, ensure_ascii=True, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
