#include "sluice/runtime/memory.h"

#include <malloc.h>
#include <sys/mman.h>

#include <cstdint>
#include <new>

#include "sluice/runtime/errors.h"

namespace sluice {
namespace {

char* map(std::size_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return static_cast<char*>(memory);
}

}  // namespace

char* allocate_pages(std::size_t bytes) {
  if (bytes < huge_page_bytes) return map(bytes);
  // The system aligns to small pages only: map more, then cut off both ends.
  const std::size_t mapped = bytes + huge_page_bytes;
  if (mapped < bytes) throw std::bad_alloc();
  char* const start = map(mapped);
  const std::size_t over = reinterpret_cast<std::uintptr_t>(start) % huge_page_bytes;
  const std::size_t front = over == 0 ? 0 : huge_page_bytes - over;
  char* const pages = start + front;
  if (front != 0) free_pages(start, front);
  free_pages(pages + bytes, huge_page_bytes - front);
  // A kernel without huge pages refuses; the memory is as good without.
  static_cast<void>(::madvise(pages, bytes, MADV_HUGEPAGE));
  return pages;
}

void free_pages(char* pages, std::size_t bytes) noexcept { SLUICE_ASSERT(::munmap(pages, bytes) == 0); }

void keep_freed_memory() noexcept {
#ifdef __GLIBC__
  ::mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most that it takes
  ::mallopt(M_TRIM_THRESHOLD, 256 << 20);
#endif
}

}  // namespace sluice
