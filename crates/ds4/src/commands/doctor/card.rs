//! NVIDIA cards, as `ds4 doctor` reports them.

use std::sync::Arc;

use ds4_cuda::{CudaDevice, Device, DeviceInfo};
use ds4_model::{KvPrecision, Model};
use serde::Serialize;

use crate::card::CardFit;
use crate::fit;
use crate::terminal::printable;
use crate::units::{bytes, grouped};

/// A card, and what it can run.
#[derive(Debug, Serialize)]
pub struct Card {
    pub name: String,
    pub memory: u64,
    /// Compute capability.
    pub capability: String,
    /// The newest CUDA version that the driver knows.
    pub cuda: String,
    /// Measured read bandwidth, bytes per second.
    pub bandwidth: Option<f64>,
    /// Why the engine cannot use it.
    pub unusable: Option<String>,
    /// Published models on it, by name, the smallest first. Files that mix 2-bit and 4-bit layers are not planned.
    pub models: Vec<(&'static str, CardFit)>,
}

impl Card {
    /// The cards of this machine; none without a driver.
    ///
    /// # Errors
    /// No temporary file can be made.
    pub fn look(kv: KvPrecision) -> anyhow::Result<Vec<Card>> {
        let devices = ds4_cuda::devices().unwrap_or_default();
        if devices.is_empty() {
            return Ok(Vec::new());
        }
        let models = fit::uniform_models()?;
        Ok(devices.into_iter().map(|info| Card::new(info, &models, kv)).collect())
    }

    fn new(info: DeviceInfo, models: &[(&'static str, Model)], kv: KvPrecision) -> Card {
        let measured = CudaDevice::open(info.ordinal).and_then(|device| {
            let device: Arc<dyn Device> = device;
            ds4_cuda::read_bandwidth(&device)
        });
        let fit =
            |(name, model): &(&'static str, Model)| (*name, CardFit::new(info.name.clone(), info.memory, model, kv));
        let models = models.iter().map(fit).collect();
        Card {
            name: info.name,
            memory: info.memory,
            capability: format!("{}.{}", info.capability.0, info.capability.1),
            cuda: format!("{}.{}", info.driver / 1000, info.driver % 1000 / 10),
            unusable: measured.as_ref().err().map(ToString::to_string),
            bandwidth: measured.ok().flatten(),
            models,
        }
    }

    /// What it is, in words for people.
    pub fn facts(&self) -> Vec<String> {
        let mut facts = vec![
            printable(&self.name).into_owned(),
            bytes(self.memory),
            format!("compute capability {}", self.capability),
            format!("CUDA {}", self.cuda),
        ];
        facts.extend(self.bandwidth.map(|bandwidth| format!("{:.0} GB/s measured reading", bandwidth / 1e9)));
        facts
    }

    /// What the engine would use it for.
    pub fn uses(&self) -> Vec<String> {
        if let Some(why) = &self.unusable {
            return vec![printable(why).into_owned()];
        }
        let fitting = self.models.iter().rfind(|(_, fit)| fit.problem.is_none());
        match fitting.and_then(|(name, fit)| Some((name, fit.plan.as_ref()?))) {
            Some((name, plan)) => vec![
                "--backend cuda".to_owned(),
                format!("holds {name} and {} tokens of context", grouped(plan.context)),
            ],
            None => vec!["too small for any published model".to_owned()],
        }
    }
}
