"""A document for the demo's senders."""


def letter(*lines: str) -> bytes:
    """A PDF of one page (ISO 32000-1) that says these lines; of letters only those of ASCII."""
    said = " T* ".join(f"({line.translate(_ESCAPES)}) Tj" for line in lines)
    text = f"BT /F1 12 Tf 18 TL 72 760 Td {said} ET"
    objects = (
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R"
        " /Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        f"<< /Length {len(text)} >>\nstream\n{text}\nendstream",
    )
    file, places = "%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        places.append(len(file))
        file += f"{number} 0 obj\n{each}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    count = len(objects) + 1
    file += (
        f"xref\n0 {count}\n0000000000 65535 f \n{table}"
        f"trailer\n<< /Size {count} /Root 1 0 R >>\nstartxref\n{len(file)}\n%%EOF\n"
    )
    return file.encode("ascii")


_ESCAPES = str.maketrans({"(": r"\(", ")": r"\)", "\\": r"\\"})
