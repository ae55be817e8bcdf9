//! How high above the leaves a page of a tree lies. All leaves of a tree lie equally deep, so a page that hangs on the wrong one (or on itself)
//! gives itself away by its height, also in an index, where nobody can search without knowing how its keys are ordered.

use super::pages::{Bad, Btree, Header};
use super::{Image, read_page};
use crate::Result;
use std::collections::HashMap;

/// More levels than SQLite itself goes down.
const MOST: usize = 64;

/// Heights of the pages that were asked for and of those below them, along their first children.
#[derive(Default)]
pub(super) struct Levels {
    known: HashMap<u32, u32>,
}

impl Levels {
    /// Levels below this page: none for a leaf.
    pub(super) fn of(&mut self, image: &dyn Image, header: &Header, no: u32) -> Result<u32> {
        let (mut above, mut no) = (Vec::new(), no);
        let (mut tree, mut page) = (Btree::default(), vec![0; header.page]);
        let mut height = loop {
            if let Some(height) = self.known.get(&no) {
                break *height;
            }
            if no < 1 || no > header.pages {
                return Err(Bad { page: no, what: "does not exist, but something refers to it" }.at(&image.path()));
            }
            read_page(image, header, no, &mut page)?;
            tree.parse(&page, no, header).map_err(|b| b.at(&image.path()))?;
            let Some(first) = tree.children.first() else {
                self.known.insert(no, 0);
                break 0;
            };
            above.push(no);
            if above.len() > MOST {
                return Err(Bad { page: no, what: "a tree without leaves" }.at(&image.path()));
            }
            no = *first;
        };
        for no in above.into_iter().rev() {
            height += 1;
            self.known.insert(no, height);
        }
        Ok(height)
    }
}
