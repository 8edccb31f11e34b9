//! Numbers of nftables' netlink interface (`linux/netfilter/nf_tables.h`).

pub const SUBSYSTEM: u8 = 10;
pub const BATCH_BEGIN: u16 = 0x10;
pub const BATCH_END: u16 = 0x11;

pub const NEW_TABLE: u8 = 0;
pub const GET_TABLE: u8 = 1;
pub const DELETE_TABLE: u8 = 2;
pub const NEW_CHAIN: u8 = 3;
pub const GET_CHAIN: u8 = 4;
pub const DELETE_CHAIN: u8 = 5;
pub const NEW_RULE: u8 = 6;
pub const GET_RULE: u8 = 7;
pub const DELETE_RULE: u8 = 8;
pub const NEW_SET: u8 = 9;
pub const NEW_ELEMENT: u8 = 12;
pub const DELETE_ELEMENT: u8 = 14;

/// `NFTA_TABLE_NAME`, and `NFTA_*_TABLE` of everything in a table.
pub const TABLE_NAME: u16 = 1;

/// `NFTA_CHAIN_*`
pub mod chain {
    pub const NAME: u16 = 3;
    pub const HOOK: u16 = 4;
    pub const POLICY: u16 = 5;
    pub const KIND: u16 = 7;
}

/// `NFTA_RULE_*`
pub mod rule {
    pub const CHAIN: u16 = 2;
    pub const HANDLE: u16 = 3;
    pub const EXPRESSIONS: u16 = 4;
}

/// `NFTA_DATA_VALUE`, `NFTA_DATA_VERDICT`, `NFTA_VERDICT_CODE`, `NFTA_VERDICT_CHAIN`
pub const VALUE: u16 = 1;
pub const VERDICT: u16 = 2;
pub const VERDICT_CODE: u16 = 1;
pub const VERDICT_CHAIN: u16 = 2;
/// `NFT_JUMP`
pub const JUMP: u32 = -3i32 as u32;
/// `NFTA_LIST_ELEM`
pub const LIST_ELEMENT: u16 = 1;
/// The name of a set that the kernel gives a name.
pub const ANONYMOUS: &str = "__set%d";
