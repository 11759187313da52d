//! The operator's orders, carried out by the process that has the data directory: the command itself, or the
//! running server.

use serde::Deserialize;
use serde_json::Value;

use super::account_orders::{self, AccountOrder};
use crate::domain::Result;
use crate::service::Services;
use crate::service::plugins::{self, PolicyOrder, Watch};
use crate::service::trail::{self, TrailOrder};

/// An order of the operator.
#[derive(Clone, Debug)]
pub enum Order {
    /// About policies.
    Policy(Box<PolicyOrder>),
    /// About the trail.
    Trail(TrailOrder),
    /// About a user's account.
    Account(AccountOrder),
}

impl Order {
    /// Parses the output of [`Order::to_json`].
    ///
    /// # Errors
    /// Describes the problem if it is not an order that this version knows.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Named {
            order: String,
        }
        // Policy orders may contain a file, which is skipped here rather than kept.
        let Named { order } = serde_json::from_str(text)?;
        if order.starts_with(TrailOrder::PREFIX) {
            serde_json::from_str(text).map(Self::Trail)
        } else if order.starts_with(AccountOrder::PREFIX) {
            serde_json::from_str(text).map(Self::Account)
        } else {
            serde_json::from_str(text).map(|order| Self::Policy(Box::new(order)))
        }
    }

    /// Returns the order as a line of JSON.
    ///
    /// # Errors
    /// Never, short of a bug in serde.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        match self {
            Self::Policy(order) => serde_json::to_string(order),
            Self::Trail(order) => serde_json::to_string(order),
            Self::Account(order) => serde_json::to_string(order),
        }
    }

    /// Carries out the order and records it with the operator as its actor. The result is for people and
    /// scripts.
    ///
    /// # Errors
    /// Those of the operation ordered.
    pub async fn carry_out(self, services: &Services, watch: Watch) -> Result<Value> {
        match self {
            Self::Policy(order) => plugins::carry_out_order(services, *order, watch).await,
            Self::Trail(order) => trail::carry_out_order(services, order).await,
            Self::Account(order) => account_orders::carry_out_order(services, order).await,
        }
    }
}

impl From<PolicyOrder> for Order {
    fn from(order: PolicyOrder) -> Self {
        Self::Policy(Box::new(order))
    }
}

impl From<TrailOrder> for Order {
    fn from(order: TrailOrder) -> Self {
        Self::Trail(order)
    }
}

impl From<AccountOrder> for Order {
    fn from(order: AccountOrder) -> Self {
        Self::Account(order)
    }
}
