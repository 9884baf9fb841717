// Executors on the nodes of a Ray cluster: master "ray://HOST:PORT[E,N]".
//
// Ray is spoken to by the command `sluice-ray executors` (python/sluice_ray/sluice_ray/executors.py, where the lines
// that it exchanges with the driver are written down). It is a child of the driver: it places the executors, and ends
// when its standard input does, which comes however the driver dies, and takes them back. Should it be killed it is
// started again, and finds the executors, which have noticed nothing: nothing that tasks need passes through it or
// through Ray, for they connect to the driver. Should it be killed with the driver, they end by themselves.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "sluice/cluster/manager.h"

namespace sluice::detail {

/// The command, and how a user comes by it.
inline constexpr const char* ray_command = "sluice-ray";
inline constexpr const char* ray_command_comes = "`pip install ./python/sluice_ray` brings it (docs/ray.md)";

struct RayOptions {
  /// "ray://HOST:PORT", or "auto" on a node of the cluster: as `sluice-ray --address`.
  std::string address;
  /// Directory that `sluice certs` has made. Empty: certificates are made for this driver alone.
  std::string certs;
  /// Where the driver listens. When it is all addresses of the host, executors are told the one that faces Ray.
  Address listen;
  /// How long Ray may take to hear of executors, with the program's way there.
  Duration answer_time_max = std::chrono::minutes(5);
};

/// Runs executors on Ray. The first call of `run_executors` waits until Ray knows of them. Errors, there: SLU-413 there
/// is no `sluice-ray`, or it has failed; SLU-402 no Ray at that address. Errors, here: those of `secured_network`.
std::unique_ptr<ClusterManager> make_ray_executors(Runtime& runtime, RayOptions options);

}  // namespace sluice::detail
