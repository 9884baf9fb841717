// The first message of who connects, and the answer.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "sluice/cluster/channel.h"
#include "sluice/cluster/messages.h"

namespace sluice::detail {

/// How long a connection, and what is said first over it, may take.
inline constexpr Duration handshake_time_max = std::chrono::seconds(10);

/// Connects by `channel`'s other side's leave: says `hello`, with this program's build, and waits for the answer.
/// Errors: SLU-413 the other side refuses, and why; SLU-402 it cannot be reached.
Welcome say_hello(Runtime& runtime, Channel& channel, Hello hello);
/// What who has connected says; nullopt when the connection ends first. Reads little: nobody is known yet.
/// Errors: SLU-301, SLU-302, SLU-305, SLU-402.
std::optional<Hello> hear_hello(Runtime& runtime, Channel& channel);
/// Why who says this is not spoken to; empty when it is.
std::string refusal_of(const Hello& hello, const std::string& token);

}  // namespace sluice::detail
