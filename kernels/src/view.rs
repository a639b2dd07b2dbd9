//! Rows inside a wider matrix, for example the queries inside a fused query-key-value output.

use std::ops::Range;

/// Read-only view of one column range of a row-major matrix.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    data: &'a [f32],
    span: Span,
}

/// Writable view of one column range of a row-major matrix.
#[derive(Debug)]
pub struct RowsMut<'a> {
    data: &'a mut [f32],
    span: Span,
}

/// Which elements of a flat slice a view stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) stride: usize,
    pub(crate) first: usize,
    pub(crate) width: usize,
    pub(crate) rows: usize,
}

impl<'a> Rows<'a> {
    /// Columns `first..first + width` of a matrix with rows of `stride` elements.
    pub fn new(data: &'a [f32], stride: usize, first: usize, width: usize) -> Self {
        Self {
            data,
            span: Span::new(data.len(), stride, first..first + width),
        }
    }

    /// All columns of a matrix with rows of `width` elements.
    pub fn whole(data: &'a [f32], width: usize) -> Self {
        Self::new(data, width, 0, width)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.span.rows
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.span.rows == 0
    }

    /// Elements of a row of the view.
    pub fn width(&self) -> usize {
        self.span.width
    }

    /// One row of the view.
    pub fn row(&self, index: usize) -> &'a [f32] {
        &self.data[self.span.range(index)]
    }
}

impl<'a> RowsMut<'a> {
    /// Columns `first..first + width` of a matrix with rows of `stride` elements.
    pub fn new(data: &'a mut [f32], stride: usize, first: usize, width: usize) -> Self {
        let span = Span::new(data.len(), stride, first..first + width);
        Self { data, span }
    }

    /// All columns of a matrix with rows of `width` elements.
    pub fn whole(data: &'a mut [f32], width: usize) -> Self {
        Self::new(data, width, 0, width)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.span.rows
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.span.rows == 0
    }

    /// Elements of a row of the view.
    pub fn width(&self) -> usize {
        self.span.width
    }

    pub(crate) fn parts(&mut self) -> (&mut [f32], Span) {
        (self.data, self.span)
    }

    /// One row of the view.
    pub fn row(&mut self, index: usize) -> &mut [f32] {
        &mut self.data[self.span.range(index)]
    }
}

impl Span {
    fn new(elements: usize, stride: usize, columns: Range<usize>) -> Self {
        assert!(
            stride > 0 && columns.end <= stride,
            "columns {columns:?} of rows of {stride}"
        );
        assert_eq!(
            elements % stride,
            0,
            "{elements} elements are no rows of {stride}"
        );
        let rows = elements / stride;
        Self {
            stride,
            first: columns.start,
            width: columns.len(),
            rows,
        }
    }

    pub(crate) fn range(&self, index: usize) -> Range<usize> {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        let start = index * self.stride + self.first;
        start..start + self.width
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_picks_its_columns() {
        let mut data: Vec<f32> = (0..12_u8).map(f32::from).collect();
        let rows = Rows::new(&data, 4, 1, 2);
        assert_eq!((rows.len(), rows.width()), (3, 2));
        assert_eq!(rows.row(2), [9.0, 10.0]);
        RowsMut::new(&mut data, 6, 4, 2).row(1)[1] = 50.0;
        assert!((data[11] - 50.0).abs() < f32::EPSILON);
    }

    #[test]
    #[should_panic(expected = "columns 3..5 of rows of 4")]
    fn a_view_stays_inside_its_rows() {
        let _ = Rows::new(&[0.0; 8], 4, 3, 2);
    }
}
