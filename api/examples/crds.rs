//! Prints the CRD manifests; `cargo xtask gen` writes them into the chart.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for crd in kruntimes_api::crds::all()? {
        println!("---\n{}", serde_yaml::to_string(&crd)?);
    }
    Ok(())
}
