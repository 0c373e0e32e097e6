//! A frame where it lies: in a packet buffer that has room before and behind it.

/// A frame that a function changes in place: from the Ethernet header on, without FCS.
pub trait Frame {
    /// The frame.
    fn bytes(&self) -> &[u8];

    /// The frame, to change in place.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Lets it begin `count` bytes earlier; what is there is whatever was there. False, and no change: there is no room.
    #[must_use]
    fn prepend(&mut self, count: usize) -> bool;

    /// Lets it begin `count` bytes later. False, and no change: it is not longer than that.
    #[must_use]
    fn trim_front(&mut self, count: usize) -> bool;

    /// Lets it end after `length` bytes; what is new is whatever was there. False, and no change: there is no room.
    #[must_use]
    fn resize(&mut self, length: usize) -> bool;
}

/// A frame on its own, whose room is the machine's memory: for models and tests.
impl Frame for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }

    fn prepend(&mut self, count: usize) -> bool {
        self.splice(..0, std::iter::repeat_n(0, count));
        true
    }

    fn trim_front(&mut self, count: usize) -> bool {
        if count >= self.len() {
            return false;
        }
        self.drain(..count);
        true
    }

    fn resize(&mut self, length: usize) -> bool {
        Self::resize(self, length, 0);
        true
    }
}
