"""Templates as they are read."""


def test_pages_are_sent_without_the_indentation_of_templates(app):
    source = "<ul>\n  {% for x in (1, 2) %}\n    <li>a  b {{ x }}</li>\n  {% endfor %}\n</ul>"
    assert app.jinja_env.from_string(source).render().split() == "<ul> <li>a b 1</li> <li>a b 2</li> </ul>".split()
    assert "  <" not in app.jinja_env.from_string(source).render()


def test_attributes_behind_a_tag_stay_apart(app):
    source = '<input value="1"{% if x %} checked{% endif %}\n       name="x"\n       id="y">'
    assert app.jinja_env.from_string(source).render().split() == ["<input", 'value="1"', 'name="x"', 'id="y">']


def test_text_behind_a_comment_stays_apart(app):
    assert app.jinja_env.from_string("one{# two #}\n    three").render() == "one three"
