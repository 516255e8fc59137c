//! The memory of a page.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

/// A page of compressed rows, shared by reference count. One that grows is written where it lies if nobody else holds it; one that
/// came from elsewhere stays in the memory that it came in.
#[derive(Clone, Debug)]
pub(super) enum Page {
    /// Computed here.
    Computed(Arc<Vec<u8>>),
    /// From a file or a device.
    Given(Bytes),
}

impl Page {
    /// A page of zeros.
    pub(super) fn new(bytes: usize) -> Self {
        Self::Computed(Arc::new(vec![0; bytes]))
    }

    /// Its bytes for writing; copied first if somebody else holds it.
    pub(super) fn make_mut(&mut self) -> &mut [u8] {
        if let Self::Given(bytes) = self {
            *self = Self::Computed(Arc::new(bytes.to_vec()));
        }
        match self {
            Self::Computed(page) => Arc::make_mut(page).as_mut_slice(),
            // Not reached: it was replaced above.
            Self::Given(_) => &mut [],
        }
    }

    /// The page for others, not copied.
    pub(super) fn to_shared(&self) -> Bytes {
        match self {
            Self::Computed(page) => Bytes::from_owner(Owner(Arc::clone(page))),
            Self::Given(bytes) => bytes.clone(),
        }
    }
}

impl Deref for Page {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Computed(page) => page,
            Self::Given(bytes) => bytes,
        }
    }
}

impl PartialEq for Page {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

/// A computed page that a store holds as well.
struct Owner(Arc<Vec<u8>>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_leaves_what_others_hold_as_it_was() {
        let mut page = Page::new(4);
        page.make_mut()[0] = 1;
        let (held, shared) = (page.clone(), page.to_shared());
        assert_eq!(page.as_ptr(), shared.as_ptr(), "shared, not copied");
        page.make_mut()[0] = 2;
        assert_eq!((&held[..], &shared[..], &page[..]), (&[1, 0, 0, 0][..], &[1, 0, 0, 0][..], &[2, 0, 0, 0][..]));
        let mut given = Page::Given(shared.clone());
        given.make_mut()[3] = 9;
        assert_eq!((&shared[..], &given[..]), (&[1, 0, 0, 0][..], &[1, 0, 0, 9][..]));
    }
}
