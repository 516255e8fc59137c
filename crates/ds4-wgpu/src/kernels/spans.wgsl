// The sequences of the batch, as the host lists them.

fn span_of(index: u32) -> Span {
    let at = index * 8u;
    return Span(tables[at], tables[at + 1u], tables[at + 2u], tables[at + 3u], tables[at + 4u]);
}
