// Memory straight from the system, for those who recycle it themselves.
#pragma once

#include <cstddef>

namespace sluice {

/// The bytes of a huge page. Memory of this size or more is aligned to it.
inline constexpr std::size_t huge_page_bytes = 2 << 20;

/// Maps `bytes` (a multiple of 4096) of zeroed memory; huge pages are asked for from `huge_page_bytes` on, because the
/// page faults of fresh memory cost more than the work done in it.
///
/// Errors: std::bad_alloc.
char* allocate_pages(std::size_t bytes);

/// Gives back memory of `allocate_pages`, all of it or a part made of whole pages.
void free_pages(char* pages, std::size_t bytes) noexcept;

/// From now on what malloc is given back stays with the process, large buffers too: those that are as large in each
/// batch would else be mapped and zeroed each time. Up to 256 MiB at the end of the main heap stay so, and 64 MiB at
/// the end of each heap of a thread. Does nothing where malloc is not that of glibc. For processes that are sluice's
/// own: it is of the whole process.
void keep_freed_memory() noexcept;

}  // namespace sluice
