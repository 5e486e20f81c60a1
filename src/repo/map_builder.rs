//! Putting a disk's map together while its segments arrive in no order. Pure: which ids to store is the caller's.

use std::collections::BTreeMap;

use super::ids::ChunkId;
use super::map::{MapShape, NODE_SEGMENTS};

/// The map of one disk, growing. Only nodes that are begun and not complete lie in memory whole.
pub struct MapBuilder {
    shape: MapShape,
    open: BTreeMap<u64, OpenNode>,
    nodes: Vec<Option<ChunkId>>,
}

struct OpenNode {
    lists: Vec<Option<ChunkId>>,
    missing: usize,
}

impl MapBuilder {
    /// An empty map for a disk of that shape.
    pub fn new(shape: MapShape) -> MapBuilder {
        let nodes = usize::try_from(shape.nodes()).expect("at most 32768 nodes");
        MapBuilder { shape, open: BTreeMap::new(), nodes: vec![None; nodes] }
    }

    /// Notes the list of a segment. Gives the ids of its node back once all its segments are there: they are to be
    /// stored (unless all are zero), and the node's id to be noted by [`MapBuilder::set_node`].
    ///
    /// # Panics
    /// If the segment was noted before or does not exist: that would be a wrong map.
    pub fn set_segment(&mut self, segment: u64, list: ChunkId) -> Option<(u64, Vec<ChunkId>)> {
        let node = segment / NODE_SEGMENTS;
        let count = usize::try_from(self.shape.segments_in_node(node)).expect("at most 1024");
        let open = self.open.entry(node).or_insert_with(|| OpenNode { lists: vec![None; count], missing: count });
        let place = &mut open.lists[usize::try_from(segment % NODE_SEGMENTS).expect("below 1024")];
        assert!(place.replace(list).is_none(), "segment {segment} was noted twice");
        open.missing -= 1;
        if open.missing > 0 {
            return None;
        }
        let complete = self.open.remove(&node)?;
        Some((node, complete.lists.into_iter().flatten().collect()))
    }

    /// Notes the id of a whole node.
    ///
    /// # Panics
    /// If it was noted before.
    pub fn set_node(&mut self, node: u64, id: ChunkId) {
        let place = &mut self.nodes[usize::try_from(node).expect("at most 32768 nodes")];
        assert!(place.replace(id).is_none(), "node {node} was noted twice");
    }

    /// The ids of all nodes: the root, to be stored (unless all are zero). `None` while any is missing.
    pub fn root(self) -> Option<Vec<ChunkId>> {
        self.nodes.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunker::SEGMENT_BYTES;

    #[test]
    fn nodes_complete_in_any_order() {
        let shape = MapShape::new((NODE_SEGMENTS + 2) * SEGMENT_BYTES as u64).unwrap();
        let mut builder = MapBuilder::new(shape);
        let id = |n: u64| ChunkId([(n % 251) as u8; 20]);
        assert!(builder.set_segment(NODE_SEGMENTS + 1, id(1)).is_none());
        assert_eq!(builder.set_segment(NODE_SEGMENTS, id(0)), Some((1, vec![id(0), id(1)])));
        builder.set_node(1, id(9));
        for segment in (1..NODE_SEGMENTS).rev() {
            assert!(builder.set_segment(segment, id(segment)).is_none());
        }
        let (node, lists) = builder.set_segment(0, id(0)).unwrap();
        assert_eq!((node, lists.len(), lists[5]), (0, 1024, id(5)));
        builder.set_node(0, id(8));
        assert_eq!(builder.root(), Some(vec![id(8), id(9)]));
        assert_eq!(MapBuilder::new(shape).root(), None);
    }
}
